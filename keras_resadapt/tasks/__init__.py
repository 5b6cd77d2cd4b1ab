"""Tasks: what a network of any family is trained to do.

A family knows no task by name, and a task no family; see `Task`.
"""

from keras_resadapt.tasks.classification import Classification
from keras_resadapt.tasks.features import Features
from keras_resadapt.tasks.task import Task

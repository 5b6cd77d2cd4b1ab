"""Running a network at fixed operating points, or adaptively per image."""

"""Names in plots."""


def plain(name: object) -> str:
    """Returns a name such that matplotlib draws it literally.

    matplotlib reads text between two dollar signs as mathematics, and fails for most
    text. A legend leaves out labels that begin with an underscore.

    Args:
        name: Name of a network, a class or an operating point.
    """
    text = str(name).replace("$", r"\$")
    # A space of no width before the underscore
    return f"\u200b{text}" if text.startswith("_") else text

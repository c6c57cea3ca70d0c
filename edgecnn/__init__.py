"""edgecnn takes a convolutional network from a folder of pictures to a camera that can be trusted."""

__version__ = "0.1.0"

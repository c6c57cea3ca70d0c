"""click commands: read arguments, call one room, print."""

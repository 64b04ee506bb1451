"""One folder a target: the plugin in __init__, build/ lowers graphs, run/ runs the engines."""

"""The commands, a file each. A file is imported when its command is called, so `serve` starts without the others."""

"""The tracks' classes, a file each; `data.py` lists what there is."""

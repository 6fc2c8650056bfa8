"""How much a file of rows may unpack to, and the files of columns, which are looked at before they are read."""

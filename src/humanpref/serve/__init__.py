"""The score as an HTTP service (`humanpref serve`), and clients of it. Importing this loads nothing."""

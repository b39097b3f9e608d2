"""Other packages' interfaces over humanpref's own code, for programs that were written against them."""

import sys

sys.exit("a module that ends the program when it is imported")

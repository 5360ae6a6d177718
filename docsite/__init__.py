"""What `make docs` adds to the Markdown of docs/: pages made of the program itself, and the list of commands."""

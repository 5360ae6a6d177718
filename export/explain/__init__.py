"""What a network looks at: its attention and the weights of its contexts, for one pixel (Figs. 10 and 11)."""

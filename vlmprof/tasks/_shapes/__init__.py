"""The data set `shapes_qa`: drawn scenes and questions about them."""

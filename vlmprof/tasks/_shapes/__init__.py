"""The dataset `shapes_qa`: procedurally drawn scenes and questions about them."""

"""Text tasks, sentence encoders, and the head generator of LEOPARD."""

"""What ``metarl benchmark`` measures."""

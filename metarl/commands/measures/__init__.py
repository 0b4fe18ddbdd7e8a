"""Measurements of time, speed and memory that ``metarl benchmark`` runs."""

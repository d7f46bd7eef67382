"""Recipes that come with longcat, one YAML file each."""

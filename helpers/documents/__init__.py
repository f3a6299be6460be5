"""Notebook 08: a folder of files -> a database -> passages -> an answer whose citations hold."""

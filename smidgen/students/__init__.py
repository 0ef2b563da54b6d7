"""The students of the literature that are no Transformers, as Hugging Face models; one file each.

A file names its models by the Auto classes under which `smidgen.registration` enters them. Their configs are in one.
"""

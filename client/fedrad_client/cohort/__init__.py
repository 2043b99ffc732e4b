"""A site's processed data set: immutable generations, labels, split, dataset."""

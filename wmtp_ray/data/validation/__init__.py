"""Checks of data files, each alone and as splits against each other. Reads rows; repairs nothing.

`scan` turns byte ranges of a file into compact arrays, `findings` and `overlap` compare those arrays, `report` shows
what was found. Two rows are compared by 64-bit hashes first and by their texts before anything is reported.
"""

"""A result as people and machines read it.

words       the verdict in a sentence, figures as text
comparison  every figure of every candidate, as rows
text        lines for a terminal
page        one self-contained HTML page
brief       JSON: all of it, and in brief for the record
"""

"""From a row to tokens: the sentence of Eq. 4, its segments, the token table, the targets of language
modelling.
"""

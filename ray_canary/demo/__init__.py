"""Three real Bentos and a few real texts, so that a newcomer has something to deploy.

`bentos/` holds three projects of one Bento, `summarization`, each as a BentoML user would write it: self-contained,
with no trace of ray-canary in it. They differ in the algorithm only, as three commits of one repository would:

- `frequency`: Luhn's clusters of frequent words (version main)
- `textrank`: PageRank on the sentences' likeness (version a)
- `diverse`: maximal marginal relevance (version b)
"""

"""From a recipe, one YAML file under version control, to artifacts that were made, validated, gated and published.

form         what may stand in a recipe, as one tree of nouns with their descriptions
strict_yaml  a small YAML 1.2 document -> plain values, and the line on which each stands
checking     plain values -> the form, with every fault at its line
resolving    paths against the file, and what no type can check
publicly     the recipe as a record may show it
recipe       the recipe: read, its paths resolved, and asked for options, limits, names and its public form
names        names of artifacts, and names that say nothing
schema       the form as a JSON schema, for editors
starter      a first recipe for a base and adapters, with comments
training     what an adapter's folder tells of its version and its training run
"""

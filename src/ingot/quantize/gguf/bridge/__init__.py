"""Architectures that ingot does not know itself, by the converter of the user's own llama.cpp.

checkout    a checkout of llama.cpp: is it one, and the digest of its code
standin     the merged model as a folder whose weights have a place and no bytes
child       runs the converter in a process of its own, with its own gguf-py
converter   that process, from our side: what the file will hold, and its tensors one by one
rows        the tensors' rows, for the sink
"""

"""The verbs, one file each. A verb parses, calls one function of the library, and shows what came back."""

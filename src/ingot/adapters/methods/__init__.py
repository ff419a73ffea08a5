"""PEFT's other methods, one file each, by `peft_type`; `registry` finds them, `method` says what a file must give."""

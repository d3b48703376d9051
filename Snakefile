# The workflow is a part of the library: hglad run CONFIG writes its plan and starts it.
include: "hglad/experiments/Snakefile"

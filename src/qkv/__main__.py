"""`python -m qkv`, and `torchrun --nproc-per-node N -m qkv train ...` for training on several processes."""

from qkv.cli import main

if __name__ == "__main__":
    main()

"""What every room uses: files that appear whole, this machine, and text for people."""

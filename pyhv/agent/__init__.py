"""Commands and files in a guest that has nothing but a shell: it is typed at, on a second line."""

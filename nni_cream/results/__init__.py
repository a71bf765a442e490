"""The files of a result: best architecture, board, history, tables, card."""

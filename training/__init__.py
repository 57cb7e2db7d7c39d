"""How the embedded model `mini` is drawn, trained and measured; not part of the wheel."""

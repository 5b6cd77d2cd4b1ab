"""Running a trained network: adaptive inference, frozen graphs, LiteRT."""

"""A report of a classifier: one HTML file that opens without a network.

- `content` is what a report says, as plain data; `curves` has the numbers of its charts.
- `charts` draws them with Altair, as specifications of Vega-Lite; `vega` has the scripts that a
  browser needs for these.
- `page` puts both into `page.html`, with `page.css` and `page.js`.
"""

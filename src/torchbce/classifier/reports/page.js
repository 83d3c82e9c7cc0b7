"use strict";
(() => {
  const { parts, charts } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const $ = (id) => document.getElementById(id);
  const slider = $("threshold");
  const chooser = $("label");
  const marked = { roc: "roc_at", precision_recall: "precision_recall_at", net_benefit: "threshold_at" };
  let part = parts[0];
  let drawn = {};

  const ratio = (part, whole) => (whole > 0 ? part / whole : null);
  const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1) + "%");
  const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });
  const at = () => part.curves.thresholds[Number(slider.value)];
  const benefit = (c, odds) => (c.tp - c.fp * odds) / (c.tp + c.fp + c.fn + c.tn);

  // Where the slider is, in each chart that shows it.
  function markers() {
    const c = at();
    const recall = ratio(c.tp, c.tp + c.fn), fpr = ratio(c.fp, c.fp + c.tn), precision = ratio(c.tp, c.tp + c.fp);
    return {
      roc_at: recall === null || fpr === null ? [] : [{ x: fpr, y: recall }],
      precision_recall_at: recall === null || precision === null ? [] : [{ x: recall, y: precision }],
      threshold_at: [{ threshold: c.threshold }],
    };
  }

  function datasets() {
    const { roc, precision_recall, reliability, histogram, thresholds } = part.curves;
    const negatives = histogram.reduce((sum, bar) => sum + bar.negatives, 0);
    const positives = histogram.reduce((sum, bar) => sum + bar.positives, 0);
    const lines = [];
    for (const c of thresholds) {
      const odds = c.threshold / (1 - c.threshold), rows = c.tp + c.fp + c.fn + c.tn;
      const all = (c.tp + c.fn - (c.fp + c.tn) * odds) / rows;
      const floor = -0.05; // what is far below 0 would make the rest flat
      if (c.threshold < 1) {
        lines.push({ threshold: c.threshold, decision: "the model", benefit: Math.max(benefit(c, odds), floor) });
        if (all >= floor) lines.push({ threshold: c.threshold, decision: "all positive", benefit: all });
        lines.push({ threshold: c.threshold, decision: "none positive", benefit: 0 });
      }
    }
    const numbered = (points) => points.map((point, n) => ({ ...point, n }));
    return {
      roc: numbered(roc),
      precision_recall: numbered(precision_recall),
      reliability,
      histogram: histogram.map((bar) => ({ ...bar, rows: bar.negatives + bar.positives })),
      classes: histogram.flatMap((bar) => [
        { start: bar.start, stop: bar.stop, value: part.negative, share: ratio(bar.negatives, negatives) ?? 0 },
        { start: bar.start, stop: bar.stop, value: part.positive, share: ratio(bar.positives, positives) ?? 0 },
      ]),
      net_benefit: lines,
      ...markers(),
    };
  }

  function config() {
    const text = dark.matches ? "#e6eaef" : "#1d2733", line = dark.matches ? "#333c47" : "#d5dbe3";
    const font = "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";
    return {
      font,
      axis: { labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line,
              labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      legend: { labelColor: text, titleColor: text, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      text: { color: text, fontSize: 12 },
      view: { stroke: "transparent" },
    };
  }

  async function draw() {
    const data = datasets();
    await Promise.all(Object.entries(charts).map(async ([name, spec]) => {
      const place = $("chart-" + name);
      if (!place) return;
      drawn[name]?.finalize();
      const text = JSON.stringify(spec);
      const used = Object.fromEntries(Object.entries(data).filter(([set]) => text.includes(`"name":"${set}"`)));
      drawn[name] = await vegaEmbed(place, { ...spec, datasets: { ...spec.datasets, ...used } }, { actions: false, renderer: "svg", config: config() });
      const svg = place.querySelector("svg");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", spec.description);
    }));
  }

  function update() {
    const c = at(), rows = c.tp + c.fp + c.fn + c.tn, odds = c.threshold / (1 - c.threshold);
    const cost = Number($("cost-fp").value) * c.fp + Number($("cost-fn").value) * c.fn;
    const shown = {
      "threshold-value": c.threshold.toFixed(3), tn: count(c.tn), fp: count(c.fp), fn: count(c.fn), tp: count(c.tp),
      precision: percent(ratio(c.tp, c.tp + c.fp)), recall: percent(ratio(c.tp, c.tp + c.fn)),
      fpr: percent(ratio(c.fp, c.fp + c.tn)), accuracy: percent((c.tp + c.tn) / rows),
      benefit: c.threshold < 1 ? benefit(c, odds).toFixed(4) : "–",
      cost: count((1000 * cost) / rows),
    };
    for (const [id, text] of Object.entries(shown)) $(id).textContent = text;
    slider.setAttribute("aria-valuetext", "threshold " + shown["threshold-value"]);
    $("status").textContent = `Threshold ${shown["threshold-value"]}: precision ${shown.precision}, recall ${shown.recall}, cost ${shown.cost} per 1,000 rows.`;
    const places = markers();
    for (const [name, set] of Object.entries(marked)) {
      drawn[name]?.view.data(set, places[set]).runAsync();
    }
  }

  function cheapest() {
    const fp = Number($("cost-fp").value), fn = Number($("cost-fn").value);
    const costs = part.curves.thresholds.map((c) => fp * c.fp + fn * c.fn);
    slider.value = String(costs.indexOf(Math.min(...costs)));
    update();
  }

  async function choose() {
    part = parts[chooser ? Number(chooser.value) : 0];
    for (const own of document.querySelectorAll("[data-part]")) own.hidden = own.dataset.part !== String(parts.indexOf(part));
    for (const name of document.querySelectorAll(".positive-name")) name.textContent = part.positive;
    slider.value = String(Math.round(part.threshold * 200));
    update();
    await draw();
    document.body.dataset.drawn = "yes"; // for whoever waits until all is there
  }

  if (parts.length) {
    slider.addEventListener("input", update);
    for (const id of ["cost-fp", "cost-fn"]) $(id).addEventListener("input", update);
    $("cheapest").addEventListener("click", cheapest);
    chooser?.addEventListener("change", choose);
    dark.addEventListener("change", draw);
    choose();
  }
})();

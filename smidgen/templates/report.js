(() => {
  "use strict";
  const chart = document.getElementById("chart");
  const source = document.getElementById("figure");
  if (!chart || !source || !window.Plotly) return;
  const { points, kinds, axes } = JSON.parse(source.textContent);
  const narrow = matchMedia("(max-width: 700px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const AREA = { star: 1.2, diamond: 0.96, circle: 1, square: 0.89 };   // marks of one size have one area

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const text = (value) => value.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  const cut = (name) => (name.length > 36 ? name.slice(0, 35) + "…" : name);
  const named = (point) => (point.role === "winner" ? `<b>${text(cut(point.name))}</b>` : text(cut(point.name)));

  const trace = ([role, split, title, symbol]) => {
    const own = points.filter((point) => point.role === role && point.split === split);
    const open = symbol.endsWith("-open");
    const size = 2 * AREA[symbol.replace("-open", "")];
    return own.length && {
      type: "scatter", mode: narrow.matches ? "markers" : "markers+text", name: title,
      x: own.map((point) => point.latency), y: own.map((point) => point.quality),
      error_y: {
        array: own.map((point) => point.high - point.quality), arrayminus: own.map((point) => point.quality - point.low),
        color: colour(role), thickness: 1.2, width: 4,
      },
      marker: {
        symbol, size: own.map((point) => size * point.radius), color: colour(role), opacity: 1,
        line: { width: open ? 2 : 1.5, color: colour(open ? role : "paper") },
      },
      text: own.map((point) => (point.label ? named(point) : "")),
      textposition: own.map((point) => point.label || "middle right"),
      hovertext: own.map((point) => `<b>${text(point.name)}</b><br>${point.about.map(text).join("<br>")}`),
      hoverinfo: "text", cliponaxis: false,
    };
  };

  const region = () => ({
    type: "rect", layer: "below", fillcolor: colour("budget"),
    x0: axes.low_ms, x1: axes.limit_ms ?? axes.high_ms, y0: axes.floor ?? axes.low, y1: axes.high,
    line: { color: colour("good"), width: 1, dash: "dot" },
    label: { text: "within the budget", textposition: "top left", font: { color: colour("good"), size: 12 } },
  });

  const axis = (ticks, title) => ({
    tickvals: ticks.map(([value]) => value), ticktext: ticks.map(([, label]) => label),
    title: { text: title, font: { size: 13, color: colour("muted") } }, tickfont: { color: colour("muted") },
    gridcolor: colour("rule"), linecolor: colour("muted"), zeroline: false, fixedrange: true, ticks: "",
  });

  const layout = () => ({
    xaxis: {
      ...axis(axes.x_ticks, `${axes.percentile} latency, ms (log scale; lower is better)`),
      type: "log", range: [Math.log10(axes.low_ms), Math.log10(axes.high_ms)],
    },
    yaxis: {
      ...axis(axes.y_ticks, narrow.matches ? "" : `${text(axes.metric)} (higher is better)`), range: [axes.low, axes.high],
    },
    shapes: axes.limit_ms === null && axes.floor === null ? [] : [region()],
    font: { color: colour("ink"), size: 13, family: "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif" },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: narrow.matches ? { l: 48, r: 8, t: 84, b: 52 } : { l: 78, r: 16, t: 40, b: 52 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant" },
    hoverlabel: {
      align: "left", bgcolor: colour("paper"), bordercolor: colour("muted"), font: { color: colour("ink"), size: 13 },
    },
    dragmode: false, height: 480,
  });

  const draw = () =>
    Plotly.react(chart, kinds.map(trace).filter(Boolean), layout(), { displayModeBar: false, responsive: true });

  chart.hidden = false;
  draw().then(() => document.documentElement.classList.add("drawn"));
  narrow.addEventListener("change", draw);
  dark.addEventListener("change", draw);

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
})();

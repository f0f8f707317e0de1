"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const canvases = [...document.querySelectorAll(".canvas")];

  // "@arm-0" is the CSS variable of that name, "@arm-0/0.2" a fifth of its opacity.
  function coloured(value, style) {
    if (typeof value === "string" && value.startsWith("@")) {
      const [name, opacity] = value.slice(1).split("/");
      const hex = style.getPropertyValue(`--${name}`).trim();
      if (opacity === undefined) return hex;
      const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
      return `rgba(${parts.join(",")},${opacity})`;
    }
    if (Array.isArray(value)) return value.map((each) => coloured(each, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, style)]));
    }
    return value;
  }

  function axis(own, style, isNarrow) {
    const ink = style.getPropertyValue("--soft").trim();
    const rule = style.getPropertyValue("--rule").trim();
    const title = { standoff: 10, font: { size: 12, color: ink }, ...own.title };
    const base = { gridcolor: rule, linecolor: rule, zerolinecolor: rule, automargin: true, ticks: "", fixedrange: isNarrow };
    return { ...base, tickfont: { size: 11, color: ink }, ...own, title };
  }

  function draw(canvas) {
    const style = getComputedStyle(root);
    const { traces, layout } = coloured(figures[Number(canvas.dataset.figure)], style);
    const isNarrow = window.matchMedia("(max-width: 48rem)").matches;
    const ink = style.getPropertyValue("--ink").trim();
    const named = traces.filter((trace) => trace.showlegend !== false && trace.name);
    const whole = {
      height: 300, margin: { l: 48, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.getPropertyValue("--sans").trim(), size: 12, color: ink },
      hoverlabel: { font: { size: 12 } }, hovermode: "closest", showlegend: named.length > 1, ...layout,
      legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0, font: { size: 11 }, ...layout.legend },
      xaxis: axis(layout.xaxis, style, isNarrow), yaxis: axis(layout.yaxis, style, isNarrow),
    };
    const entries = whole.showlegend ? named.length : 0;
    whole.height += Math.max(0, Math.ceil(entries / (isNarrow ? 2 : 3)) - 1) * 18;
    canvas.style.height = `${whole.height}px`;
    return Plotly.react(canvas, traces, whole, { responsive: true, displayModeBar: false });
  }

  const isVisible = (canvas) => canvas.closest("details:not([open])") === null;

  async function drawAll() {
    for (const canvas of canvases.filter(isVisible)) await draw(canvas);
    root.dataset.drawn = String(document.querySelectorAll(".canvas .main-svg").length > 0 || canvases.length === 0);
  }

  function recolour(programs, name) {
    const clipMin = Number(programs.dataset.clipMin), clipMax = Number(programs.dataset.clipMax);
    for (const code of programs.querySelectorAll("pre[data-weights]")) {
      const weights = JSON.parse(code.dataset.weights)[name];
      [...code.children].forEach((token, place) => {
        const weight = weights[place];
        const most = weight > 1 ? Math.log(clipMax) : -Math.log(clipMin || 0.1);
        token.classList.remove("up", "down", "dropped", "pushed", "at-max", "at-min");
        token.classList.add(weight < 0 ? "pushed" : weight === 0 ? "dropped" : weight > 1 ? "up" : "down");
        if (weight > 0 && weight >= clipMax * 0.9999) token.classList.add("at-max");
        if (weight > 0 && weight <= clipMin * 1.0001) token.classList.add("at-min");
        token.style.setProperty("--a", Math.min(1, weight > 0 ? Math.abs(Math.log(weight)) / most : -weight));
        token.title = token.title.replace(/^weight \S+/, `weight ${weight}`);
      });
    }
  }

  for (const programs of document.querySelectorAll(".programs")) {
    programs.querySelector("select").addEventListener("change", (event) => recolour(programs, event.target.value));
  }
  for (const more of document.querySelectorAll("details.more")) more.addEventListener("toggle", drawAll);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  window.addEventListener("beforeprint", () => { root.classList.add("print"); drawAll(); });
  window.addEventListener("afterprint", () => { root.classList.remove("print"); drawAll(); });
  drawAll();
})();

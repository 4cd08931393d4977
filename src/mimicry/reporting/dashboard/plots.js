// Figures: in the colours of the page, drawn when they come into view, all of them before printing.

const CONFIG = {
  displaylogo: false,
  displayModeBar: "hover",
  responsive: true,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
};
const drawn = new Map();
const seen = new IntersectionObserver(
  (entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target)),
  { rootMargin: "200px" },
);

function axis(title, options = {}) {
  return {
    title: { text: title, standoff: 8 },
    gridcolor: css("--line"),
    linecolor: css("--line"),
    zeroline: false,
    automargin: true,
    ticks: "outside",
    tickcolor: css("--line"),
    ...options,
  };
}

function layout(options = {}) {
  return {
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: css("--sans"), size: 12.5, color: ink() },
    margin: { l: 56, r: 16, t: 34, b: 44 },
    hoverlabel: {
      bgcolor: css("--raised"),
      bordercolor: css("--line"),
      font: { family: css("--sans"), size: 13, color: ink() },
      align: "left",
    },
    legend: { orientation: "h", yanchor: "top", y: -0.22, x: 0, font: { size: 12 } },
    modebar: { bgcolor: "transparent", color: css("--line"), activecolor: css("--quiet") },
    height: 380,
    autosize: true,
    ...(printing && { width: PAPER_WIDTH }),
    ...options,
  };
}

// A node that fills itself: make() gives traces and layout, anew whenever the theme changes.
function plot(label, make) {
  const node = el("div", { class: "plot", role: "figure", "aria-label": label });
  drawn.set(node, { make, done: false });
  seen.observe(node);
  return node;
}

function draw(node, again = false) {
  const entry = drawn.get(node);
  if (!entry || !node.isConnected || (entry.done && !again)) return;
  entry.done = true;
  const { traces, options } = entry.make();
  // Beside the scale of a heat map there is no room for buttons.
  const config = { ...CONFIG, ...(traces[0]?.type === "heatmap" && { displayModeBar: false }) };
  Plotly.react(node, traces, layout(options), config);
}

// Figures that were replaced would otherwise stay in memory.
function clear(parent) {
  for (const node of parent.querySelectorAll(".plot")) {
    if (drawn.get(node)?.done) Plotly.purge(node);
    seen.unobserve(node);
    drawn.delete(node);
  }
  parent.replaceChildren();
}

const drawAll = (again) => [...drawn.keys()].forEach((node) => draw(node, again));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));

// Paper is light, and narrower than the window for which figures were drawn.
const PAPER_WIDTH = 640;
let printing = false;
function forPrint(now) {
  printing = now;
  document.documentElement.toggleAttribute("data-print", now);
  drawAll(true);
}
addEventListener("beforeprint", () => forPrint(true));
addEventListener("afterprint", () => forPrint(false));

const empty = (text) => el("p", { class: "empty" }, text);

// A labelled choice; `choices` are pairs of value and text, and what was chosen before stays if it still can.
function choice(label, choices, chosen, change) {
  const options = choices.map(([value, text]) => el("option", { value, selected: value === chosen }, text));
  return el("label", {}, label, el("select", { onchange: (event) => change(event.target.value) }, options));
}

const stillThere = (choices, chosen) => (choices.some(([value]) => value === chosen) ? chosen : choices[0]?.[0]);

// Which runs are shown: every part of the page but the paper's shows these.

const FILTERS = [
  ["regime", "Regime", (run) => group(run).regime],
  ["task", "Task", (run) => group(run).task],
  ["attn", "Attention", (run) => run.attn],
  ["seed", "Seed", (run) => String(run.seed)],
  ["source", "Experiment", (run) => group(run).source],
];
const chosen = Object.fromEntries(FILTERS.map(([key]) => [key, new Set()]));

// Of one filter any choice will do, of several filters all must hold; none chosen means all.
const matching = () =>
  DATA.runs.filter((run) => FILTERS.every(([key, , value]) => !chosen[key].size || chosen[key].has(value(run))));

function drawFilters(changed) {
  const fields = FILTERS.map(([key, title, value]) => {
    const values = distinct(DATA.runs.map(value)).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const pill = (text) => {
      const toggle = (event) => {
        chosen[key][event.target.checked ? "add" : "delete"](text);
        changed();
      };
      const swatch = key === "attn" && el("span", { class: "swatch", style: `background:${tint(text)}` });
      return el(
        "label",
        { class: "pill" },
        el("input", { type: "checkbox", name: key, value: text, onchange: toggle }),
        el("span", {}, swatch || null, text),
      );
    };
    return el("fieldset", {}, el("legend", {}, title), el("div", { class: "pills" }, values.map(pill)));
  });
  section("choices").replaceChildren(...fields);
  section("filters").addEventListener("reset", () => {
    Object.values(chosen).forEach((set) => set.clear());
    changed();
  });
  // On a phone the choices would fill the first screen.
  if (matchMedia("(max-width: 640px)").matches) section("filters").querySelector("details").open = false;
}

function tellCount(runs) {
  const text =
    runs.length === DATA.runs.length ? `all ${runs.length} runs` : `${runs.length} of ${DATA.runs.length} runs`;
  document.querySelectorAll(".shown").forEach((node) => {
    node.textContent = text;
  });
}

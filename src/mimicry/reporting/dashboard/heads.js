// Values per layer and head as heat maps, and attention maps of one sentence.

const headChoice = {};
const QUANTITIES = {
  "analysis/entropy": "entropy",
  "analysis/entropy_normalised": "entropy / log(visible keys)",
  "analysis/kl": "KL to softmax",
  "analysis/total_variation": "total variation from softmax",
  "analysis/top_k": "share of the teacher's top keys",
  "analysis/output_cosine": "cosine of attention outputs",
  "analysis/monotonicity": "Spearman's ρ of weight and q·k",
  "analysis/kendall": "Kendall's τ of weight and q·k",
  "analysis/isotonic_r2": "R² of an isotonic fit over q·k",
};

function heads(runs) {
  const place = section("heads");
  clear(place);
  const about =
    "A value for each layer and head. One scale serves all states of a run; a cell without colour has no value.";
  place.append(el("h2", {}, "Layers and heads"), el("p", { class: "note" }, about));
  const able = runs.filter((run) => run.heads.length);
  if (!able.length) return place.append(empty("No run that matches the filters has values per head in its record."));
  const options = able.map((run) => [run.id, runTitle(run)]);
  headChoice.run = stillThere(options, headChoice.run);
  const run = able.find((entry) => entry.id === headChoice.run);
  const names = distinct(run.heads.map((grid) => grid.name)).map((name) => [name, QUANTITIES[name] ?? name]);
  headChoice.name = stillThere(names, headChoice.name);
  const again = (name) => (value) => {
    headChoice[name] = value;
    heads(matching());
  };
  place.append(
    el(
      "div",
      { class: "controls" },
      choice("Run", options, headChoice.run, again("run")),
      choice("Quantity", names, headChoice.name, again("name")),
    ),
  );
  const grids = run.heads.filter((grid) => grid.name === headChoice.name);
  const values = grids.flatMap((grid) => grid.values.flat()).filter((value) => value != null);
  const scale = [Math.min(...values), Math.max(...values)];
  place.append(
    el(
      "div",
      { class: "panels" },
      grids.map((grid) => {
        const title = DATA.states[grid.stage] ?? grid.stage;
        return el(
          "div",
          {},
          el("h3", {}, title),
          plot(`${headChoice.name} per layer and head, ${title}`, () => grids2d(grid, scale)),
        );
      }),
    ),
  );
}

function grids2d(grid, [zmin, zmax]) {
  const hover = grid.values.map((row, layer) =>
    row.map((value, head) => `layer ${layer}, head ${head}<br><b>${number(value, 3)}</b> ${plain(grid.unit)}`),
  );
  const trace = {
    type: "heatmap",
    z: grid.values,
    zmin,
    zmax,
    colorscale: "Cividis",
    hovertext: hover,
    hoverinfo: "text",
    xgap: 1,
    ygap: 1,
    hoverongaps: false,
    colorbar: { thickness: 10, outlinewidth: 0, title: { text: plain(grid.unit), side: "right" } },
  };
  const whole = { tickangle: 0, tickformat: "d", showgrid: false };
  return {
    traces: [trace],
    options: {
      xaxis: axis("head", { ...whole, dtick: Math.ceil((grid.values[0]?.length ?? 1) / 6) }),
      yaxis: axis("layer", { ...whole, dtick: Math.ceil(grid.values.length / 12), autorange: "reversed" }),
      height: 330,
      margin: { l: 50, r: 8, t: 4, b: 44 },
    },
  };
}

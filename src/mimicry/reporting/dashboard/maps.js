// The attention of teacher and student on one sentence, head by head.

const mapChoice = { layer: 0, head: 0 };

function maps(runs) {
  const place = section("maps");
  clear(place);
  const about =
    "The weights of every head on one sentence, teacher and student side by side on one scale, and their difference. Rows are queries, columns keys; the weight is in the cell under the pointer.";
  place.append(el("h2", {}, "Attention maps"), el("p", { class: "note" }, about));
  const able = runs.filter((run) => run.maps);
  if (!able.length)
    return place.append(
      empty("No run that matches the filters has left its attention maps where the dashboard was built."),
    );
  const options = able.map((run) => [run.id, runTitle(run)]);
  mapChoice.run = stillThere(options, mapChoice.run);
  const run = able.find((entry) => entry.id === mapChoice.run);
  const [layers, heads] = run.maps.shape;
  mapChoice.layer = Math.min(mapChoice.layer, layers - 1);
  mapChoice.head = Math.min(mapChoice.head, heads - 1);
  const panels = el("div", { class: "panels" });
  const show = () => {
    clear(panels);
    const sides = [
      ["teacher", "Teacher (softmax)"],
      ["student", run.label],
    ].filter(([name]) => run.maps[name] != null);
    const both = sides.map(([name, title]) => ({
      title,
      weights: headWeights(run.maps, name, mapChoice.layer, mapChoice.head),
    }));
    const top = Math.max(...both.flatMap(({ weights }) => weights.flat()));
    const shown = both.map((side) => ({ ...side, scale: { zmin: 0, zmax: top, colorscale: "Cividis" } }));
    if (both.length > 1) shown.push(difference(both[0].weights, both[1].weights, run.label));
    panels.append(
      ...shown.map(({ title, weights, scale }) =>
        el(
          "div",
          {},
          el("h3", {}, title),
          plot(`Attention of ${title}, layer ${mapChoice.layer}, head ${mapChoice.head}`, () =>
            weightsMap(weights, run.maps.tokens, scale),
          ),
        ),
      ),
    );
  };
  const slider = (name, count) => {
    const told = el("output", {}, String(mapChoice[name]));
    const move = (event) => {
      mapChoice[name] = Number(event.target.value);
      told.textContent = event.target.value;
      show();
    };
    return el(
      "label",
      {},
      `${name} (of ${count})`,
      el(
        "span",
        { class: "ticks" },
        el("input", { type: "range", name, min: 0, max: count - 1, step: 1, value: mapChoice[name], oninput: move }),
        told,
      ),
    );
  };
  const again = (value) => {
    mapChoice.run = value;
    maps(matching());
  };
  place.append(
    el(
      "div",
      { class: "controls" },
      options.length > 1 ? choice("Run", options, mapChoice.run, again) : null,
      slider("layer", layers),
      slider("head", heads),
    ),
    panels,
  );
  show();
}

// Weights are stored as bytes, 255 being 1, for all layers and heads in a row.
function headWeights(stored, name, layer, head) {
  const [, heads, n] = stored.shape;
  const bytes = atob(stored[name]);
  const start = (layer * heads + head) * n * n;
  return Array.from({ length: n }, (_, row) =>
    Array.from({ length: n }, (_, column) => bytes.charCodeAt(start + row * n + column) / 255),
  );
}

// Purple where the student attends more, orange where the teacher does: ColorBrewer's PuOr, as in the runs' figures.
const PURPLE_ORANGE = ["#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d8daeb", "#998ec3", "#542788"];

function difference(teacher, student, label) {
  const weights = student.map((row, from) => row.map((weight, to) => weight - teacher[from][to]));
  const top = Math.max(...weights.flat().map(Math.abs), 1 / 255);
  const colorscale = PURPLE_ORANGE.map((colour, index) => [index / (PURPLE_ORANGE.length - 1), colour]);
  return { title: `${label} less teacher`, weights, scale: { zmin: -top, zmax: top, colorscale } };
}

function weightsMap(weights, tokens, scale) {
  const ticks = {
    tickvals: tokens.map((_, index) => index),
    ticktext: tokens.map(plain),
    showgrid: false,
    ticks: "",
    tickfont: { size: tokens.length > 30 ? 8 : 10.5 },
  };
  const hover = weights.map((row, from) =>
    row.map((weight, to) => `${plain(tokens[from])} → ${plain(tokens[to])}<br><b>${number(weight, 3)}</b>`),
  );
  const trace = {
    type: "heatmap",
    z: weights,
    ...scale,
    hovertext: hover,
    hoverinfo: "text",
    colorbar: { thickness: 10, outlinewidth: 0 },
  };
  return {
    traces: [trace],
    options: {
      xaxis: axis("key", { ...ticks, tickangle: -60 }),
      yaxis: axis("query", { ...ticks, autorange: "reversed" }),
      height: 440,
      margin: { l: 60, r: 8, t: 8, b: 60 },
    },
  };
}

// What the paper reports, and what our runs say of it.

function paper() {
  const place = section("paper");
  const about = "Targets stand in the experiment files. A value is reproduced within its tolerance; an ordering needs a difference beyond its own 95 % interval over seeds, and is undecided within it.";
  place.replaceChildren(el("h2", {}, "Against the paper"), el("p", { class: "note" }, about));
  if (!DATA.verdicts.length) return place.append(empty("No experiment with collected records states a target."));
  const kinds = distinct(DATA.verdicts.map((verdict) => verdict.status)).sort();
  const count = (status) => DATA.verdicts.filter((verdict) => verdict.status === status).length;
  place.append(el("p", { class: "tally" }, kinds.map((status) => [chip(status, `${count(status)} ${status}`), " "])));
  const columns = DATA.verdict_header.map((title, index) => ({
    title, text: index < 3 || index > 5, wrap: [0, 4, 7].includes(index), value: (verdict) => verdict.cells[index],
    show: (verdict) => (title === "verdict" ? chip(verdict.status) : verdict.cells[index]),
  }));
  const groups = distinct(DATA.verdicts.map((verdict) => verdict.experiment)).map((name) => ({ title: () => name, rows: DATA.verdicts.filter((verdict) => verdict.experiment === name) }));
  place.append(sortableTable("Verdicts", columns, groups, { column: 1, down: false }));
}

const chip = (status, text = status) => el("span", { class: `chip ${status.split(" ")[0]}` }, text);

// What the paper reports, and what our runs say of it.

const statuses = new Set();

function paper() {
  const place = section("paper");
  const about =
    "Targets stand in the experiment files. A value is reproduced within its tolerance; an ordering needs a difference beyond its own 95 % interval over seeds, and is undecided within it.";
  place.replaceChildren(el("h2", {}, "Against the paper"), el("p", { class: "note" }, about));
  if (!DATA.verdicts.length) return place.append(empty("No experiment states a target."));
  const kinds = ["reproduced", "differs", "undecided", "not run at this scale"];
  const count = (status) => DATA.verdicts.filter((verdict) => verdict.status === status).length;
  const pill = (status) => {
    const toggle = (event) => {
      statuses[event.target.checked ? "add" : "delete"](status);
      verdicts();
    };
    const box = el("input", { type: "checkbox", name: "status", value: status, onchange: toggle });
    return el("label", { class: "pill" }, box, el("span", {}, `${count(status)} ${status}`));
  };
  place.append(
    el("div", { class: "pills tally", role: "group", "aria-label": "Verdicts shown" }, kinds.filter(count).map(pill)),
    el("div", { id: "verdicts" }),
  );
  verdicts();
}

function verdicts() {
  const shown = DATA.verdicts.filter((verdict) => !statuses.size || statuses.has(verdict.status));
  const columns = DATA.verdict_header.map((title, index) => ({
    title,
    text: index < 3 || index > 5,
    wrap: [0, 4, 7].includes(index),
    value: (verdict) => verdict.cells[index],
    show: (verdict) => (title === "verdict" ? chip(verdict.status) : verdict.cells[index]),
  }));
  // What has been judged comes before what has not run.
  const judged = (name) => shown.some((verdict) => verdict.experiment === name && !verdict.status.startsWith("not"));
  const names = distinct(shown.map((verdict) => verdict.experiment)).sort((a, b) => judged(b) - judged(a));
  const groups = names.map((name) => ({
    title: () => name,
    rows: shown.filter((verdict) => verdict.experiment === name),
  }));
  section("verdicts").replaceChildren(sortableTable("Verdicts", columns, groups, { column: 1, down: false }));
}

const chip = (status, text = status) => el("span", { class: `chip ${status.split(" ")[0]}` }, text);

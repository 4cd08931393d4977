"use strict";
// Data, text and numbers. Text from records reaches the page as text nodes only, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const GAP = "–";

// An element with attributes, listeners (on...) and children; a child that is no node becomes text.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null));
  return node;
}

const section = (id) => document.getElementById(id);
const distinct = (values) => [...new Set(values)];

// Plotly reads some tags in text, such as <a>; these texts are nothing but text.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function number(value, places) {
  if (value == null) return GAP;
  if (Math.abs(value) >= 1000) places = 0;
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

// Mean and half the width of its 95 % interval over seeds; no width for a single value, nothing for none.
function interval(values) {
  const known = values.filter((value) => value != null);
  const n = known.length;
  if (!n) return null;
  const mean = known.reduce((sum, value) => sum + value, 0) / n;
  if (n === 1) return { mean, half: null, n };
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  return { mean, half: DATA.student_t[n - 2] * Math.sqrt(variance / n), n };
}

const intervalText = (of, places) =>
  of == null ? GAP : number(of.mean, places) + (of.half == null ? "" : ` ± ${number(of.half, places)}`);

function intervalNode(of, places) {
  if (of == null) return el("span", { class: "gap" }, GAP);
  return el(
    "span",
    {},
    number(of.mean, places),
    of.half == null ? null : el("span", { class: "spread" }, ` ± ${number(of.half, places)}`),
  );
}

function seconds(value) {
  if (value == null) return GAP;
  return value < 120 ? `${number(value, value < 10 ? 1 : 0)} s` : `${number(value / 60, 0)} min`;
}

const bytes = (value) => (value == null ? GAP : `${number(value / 2 ** 30, 2)} GiB`);

// Okabe and Ito's colours, which people who confuse red and green can tell apart; ink stands for black.
const COLOURS = {
  hedgehog: "#0072B2",
  taylor: "#E69F00",
  cosformer: "#009E73",
  performer: "#D55E00",
  elu: "#CC79A7",
  t2r: "#56B4E9",
  relu: "#B8A900",
};
const SYMBOLS = [
  "circle",
  "square",
  "diamond",
  "triangle-up",
  "x",
  "cross",
  "triangle-down",
  "star",
  "pentagon",
  "hexagon",
];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const ATTENTIONS = distinct(DATA.runs.map((run) => run.attn)).sort();

function colour(attn) {
  if (attn === "softmax" || attn === "sdpa") return ink();
  const base = Object.keys(COLOURS).find((name) => attn.includes(name));
  // Blue alone is too dim on a dark page.
  if (base === "hedgehog" && isDark()) return "#4aa3df";
  const others = Object.values(COLOURS);
  return base ? COLOURS[base] : others[Math.max(0, ATTENTIONS.indexOf(attn)) % others.length];
}

// The same for elements, which follow the theme by themselves.
const tint = (attn) => (colour(attn) === ink() ? "var(--ink)" : colour(attn));

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const ink = () => css("--ink");
const isDark = () => css("color-scheme") === "dark";

const group = (run) => DATA.groups[run.group];
const finalOf = (run) => run.states[group(run).final] ?? {};
const where = (run) => `${group(run).task} · ${group(run).model}`;
// Tables of one name differ in their data.
function dataName(of) {
  const alike = (other) => ["task", "model", "source", "regime"].every((name) => other[name] === of[name]);
  const twin = DATA.groups.filter(alike).length > 1;
  return twin ? ` · data ${of.fingerprint || "unknown"}` : "";
}

const tableName = (of) => `${of.task} · ${of.model} · ${of.source}${dataName(of)}`;
const stageOrder = (stage) => Object.keys(DATA.states).indexOf(stage);

const runTitle = (run) => `${run.label} · ${where(run)} · seed ${run.seed}`;

function say(text) {
  section("said").textContent = "";
  section("said").textContent = text;
}

// Runs watch.js without a browser and prints the texts of the page, one element a line.
//   node page.mjs WATCH.JS VIEW.JSON
import { readFileSync } from "node:fs";

class Node {
  constructor() { this.children = []; this.style = {}; this.own = ""; this.tBodies = [this]; }
  append(...nodes) { this.children.push(...nodes); }
  replaceChildren(...nodes) { this.children = nodes; }
  setAttribute() {}
  set textContent(text) { this.own = text; this.children = []; }
  get textContent() { return this.own + this.children.map((one) => one.textContent ?? String(one)).join(""); }
}

const parts = {};
const document = {
  createElement: () => new Node(),
  createElementNS: () => new Node(),
  getElementById: (id) => (parts[id] ??= new Node()),
};
const view = JSON.parse(readFileSync(process.argv[3], "utf8"));
const fetch = async () => ({ ok: true, json: async () => view });
const told = new Function("document", "fetch", "setTimeout", readFileSync(process.argv[2], "utf8"));

function lines(node) {
  const isText = node.own || node.children.every((one) => !(one instanceof Node)) || node.children.some((one) => !(one instanceof Node));
  return isText ? [node.textContent] : node.children.flatMap(lines);
}

told(document, fetch, () => {
  for (const [id, node] of Object.entries(parts)) for (const line of lines(node)) console.log(`${id}\t${line}`);
});

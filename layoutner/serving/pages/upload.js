"use strict";
// Texts of documents are only ever set as textContent or as values of attributes, so they cannot run.

const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000; // of a page's drawing, in its own units
const MARGIN = 3; // between a field and its box

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function shape(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").className = bad ? "bad" : "";
}

function place(box, height) {
  const [left, top, right, bottom] = box;
  return { x: left, y: (top * height) / 1000, width: right - left, height: ((bottom - top) * height) / 1000 };
}

function around(box, height) {
  const { x, y, width, height: high } = place(box, height);
  return { x: x - MARGIN, y: y - MARGIN, width: width + 2 * MARGIN, height: high + 2 * MARGIN };
}

function drawPage(page) {
  const height = (WIDTH * page.page_size[1]) / page.page_size[0];
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `Page ${page.page}` });
  if (page.preview) {
    svg.append(shape("image", { href: page.preview, width: WIDTH, height, preserveAspectRatio: "none" }));
  } else {
    for (const word of page.words) {
      const box = place(word.box, height);
      const size = Math.max(4, box.height * 0.8);
      const text = shape("text", { x: box.x, y: box.y + size, "font-size": size, class: "word" }, word.text);
      if (box.width > 0) {
        text.setAttribute("textLength", box.width);
        text.setAttribute("lengthAdjust", "spacingAndGlyphs");
      }
      svg.append(text);
    }
  }
  const section = element("section", { class: "page" });
  section.append(element("h2", {}, `Page ${page.page}: ${page.name}`), svg);
  return { section, svg, height };
}

function show(answer) {
  const pages = answer.pages.map(drawPage);
  at("pages").replaceChildren(...pages.map((page) => page.section));
  const list = [];
  let count = 0;
  let reviews = 0;
  Object.entries(answer.fields).forEach(([type, fields], index) => {
    if (!fields.length) return;
    const colour = `type-${index % 8}`;
    const items = element("ul");
    for (const field of fields) {
      const { svg, height } = pages[field.page - 1];
      const box = shape("rect", { class: `box ${colour}${field.review ? " review" : ""}`, ...around(field.box, height) });
      box.append(shape("title", {}, `${type}: ${field.text}`));
      svg.append(box);
      const line = element("button", { type: "button", class: "field" });
      const text = element("span", {}, field.text);
      if (field.value !== null && field.value !== field.text) text.append(element("span", { class: "value" }, field.value));
      if (field.review) text.append(element("span", { class: "note" }, field.review));
      line.append(text, element("span", { class: "muted" }, field.confidence.toFixed(2)));
      const mark = (on) => [line, box].forEach((one) => one.classList.toggle("marked", on));
      for (const one of [line, box]) {
        one.addEventListener("mouseenter", () => mark(true));
        one.addEventListener("mouseleave", () => mark(false));
      }
      line.addEventListener("focus", () => mark(true));
      line.addEventListener("blur", () => mark(false));
      line.addEventListener("click", () => box.scrollIntoView({ block: "center", behavior: "smooth" }));
      const item = element("li");
      item.append(line);
      items.append(item);
      count += 1;
      reviews += field.review ? 1 : 0;
    }
    list.push(element("h3", { class: colour }, type), items);
  });
  at("fields").replaceChildren(...(list.length ? list : [element("p", {}, "No field was found.")]));
  at("view").hidden = at("raw").hidden = false;
  const shown = { ...answer, pages: answer.pages.map(({ preview, ...page }) => page) };
  at("json").textContent = JSON.stringify(shown, null, 2);
  const many = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;
  say(`${many(count, "field")} on ${many(answer.pages.length, "page")}` + (reviews ? `, ${reviews} to review` : ""));
}

async function send(file) {
  at("send").disabled = true;
  at("view").hidden = at("raw").hidden = true;
  say(`Reading ${file.name} ...`);
  try {
    const body = new FormData();
    body.append("file", file, file.name);
    const query = new URLSearchParams({ previews: "true", min_confidence: at("confidence").value || "0" });
    const response = await fetch(`/predict?${query}`, { method: "POST", body });
    const answer = await response.json();
    if (response.ok) show(answer);
    else say(answer.error, true);
  } catch (error) {
    say(`The server does not answer: ${error.message}`, true);
  } finally {
    at("send").disabled = false;
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send(at("file").files[0]);
});
at("form").addEventListener("dragover", (event) => {
  event.preventDefault();
  at("form").classList.add("over");
});
at("form").addEventListener("dragleave", () => at("form").classList.remove("over"));
at("form").addEventListener("drop", (event) => {
  event.preventDefault();
  at("form").classList.remove("over");
  if (event.dataTransfer.files.length) {
    at("file").files = event.dataTransfer.files;
    send(event.dataTransfer.files[0]);
  }
});

fetch("/health").then((response) => response.json()).then((health) => {
  at("model").textContent = `${health.model}, ${health.family}`;
  document.title = `${health.model} - layoutner`;
});

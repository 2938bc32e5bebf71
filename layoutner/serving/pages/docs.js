"use strict";

function element(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function table(head, rows) {
  const cells = (kind, row) => element("tr", "", ...row.map((text) => element(kind, text)));
  return element("table", "", cells("th", head), ...rows.map((row) => cells("td", row)));
}

function route(path, method, operation) {
  const section = element("section", "", element("h2", `${method.toUpperCase()} ${path}`), element("p", operation.summary));
  if (operation.parameters) {
    const rows = operation.parameters.map((one) => [one.name, String(one.schema.default ?? ""), one.description ?? ""]);
    section.append(table(["query", "default", ""], rows));
  }
  if (operation.requestBody) {
    section.append(element("p", operation.requestBody.description));
    section.append(element("p", Object.keys(operation.requestBody.content).join(", ")));
  }
  const responses = Object.entries(operation.responses).map(([status, one]) => [status, one.description]);
  section.append(table(["status", ""], responses));
  return section;
}

fetch("/openapi.json").then((response) => response.json()).then((api) => {
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      document.getElementById("routes").append(route(path, method, operation));
    }
  }
});

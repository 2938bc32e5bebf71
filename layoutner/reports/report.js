"use strict";
// The filter: boxes and lines of the kinds that are chosen; pages without any error of them are hidden.
const filter = document.getElementById("filter");
function show() {
  const chosen = new Set();
  for (const box of filter.querySelectorAll("input")) if (box.checked) chosen.add(box.value);
  const pages = document.querySelectorAll("article.page");
  let visible = 0;
  for (const page of pages) {
    let any = false;
    for (const part of page.querySelectorAll("g, li")) {
      const kind = part.classList[0];
      part.classList.toggle("hidden", !chosen.has(kind));
      any = any || chosen.has(kind);
    }
    page.classList.toggle("hidden", !any);
    visible += any;
  }
  document.getElementById("shown").textContent = visible + " of " + pages.length + " pages";
}
if (filter) {
  filter.addEventListener("change", show);
  // A line of the list marks its box on the page.
  for (const [event, on] of [["mouseover", true], ["mouseout", false]])
    document.getElementById("pages").addEventListener(event, (found) => {
      const line = found.target.closest("li");
      if (line) document.getElementById(line.dataset.at).classList.toggle("marked", on);
    });
  show();
}

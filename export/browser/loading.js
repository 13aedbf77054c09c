/**
 * Explains to the user why the page cannot be loaded. This script is not a module, because browsers do not load modules
 * if a page was opened as a file.
 */

const FILE =
  "This page was opened as a file, but browsers load a model only from a web server. Run " +
  "“python3 -m http.server” in the folder of this page, and open localhost:8000 in the browser.";

if (location.protocol === "file:") tell(FILE);
else addEventListener("error", tellOfScript, true); // captures the event, because it does not bubble

/** @param {Event} event */
function tellOfScript({ target }) {
  if (!(target instanceof HTMLScriptElement)) return;
  tell(
    `${target.getAttribute("src")}, or a file that it imports, cannot be loaded. ` +
      "Copy the whole folder of the page to the server.",
  );
}

/** @param {string} why */
function tell(why) {
  for (const [id, text] of [
    ["error", why],
    ["status", "Not loaded."],
  ]) {
    const place = document.getElementById(id);
    if (place) place.textContent = text;
  }
}

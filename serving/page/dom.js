/** Small helpers around the document. No text ever becomes markup. */

/** Return the element of an id. */
export const byId = (id) => document.getElementById(id);

/** Make an element: properties, then children. Names with a dash, role and for are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Fill a select with options: values, or pairs of a value and its text. */
export function fillSelect(select, options) {
  const kept = select.value;
  select.replaceChildren(
    ...options.map((one) => (Array.isArray(one) ? one : [one, one])).map(([value, textContent]) => make("option", { value, textContent })),
  );
  select.value = kept;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

const urls = new Map();

/** Return an address for a blob, the same each time. */
export function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

/** Give the address of a blob back. */
export function forget(blob) {
  URL.revokeObjectURL(urls.get(blob));
  urls.delete(blob);
}

/** Return the blob of base64 text. */
export function blobOf(base64, type) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type });
}

/** Say something to screen readers, once. */
export function announce(text) {
  byId("live").textContent = text;
}

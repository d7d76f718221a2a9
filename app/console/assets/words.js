// Texts of scripts in the page's language. A Chinese page contains their translations.
const TRANSLATIONS = JSON.parse(document.querySelector("meta[name=words]").content);

export function t(text, filled = {}) {
  return fill(TRANSLATIONS[text] ?? text, filled);
}

export function fill(text, filled) {
  return text.replace(/\{(\w+)\}/g, (place, name) => filled[name] ?? place);
}

export function element(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

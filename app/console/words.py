"""Chinese translations of the console's texts. The English texts are in the templates and pages."""

import re
from collections.abc import Callable

_QUALITY = re.compile(r"[01](?:\.[0-9]{0,3})?")
"""A preference of `Accept-Language` (RFC 9110, section 12.4.2)."""

Words = Callable[..., str]

CHINESE = {
    "Threads": "会话", "Audit": "审计", "Usage": "用量", "Settings": "设置", "Sign in": "登录", "Sign out": "退出",
    "API key": "API 密钥",
    "Sign in with an API key. The browser keeps no key, only a session that ends with it.":
        "使用 API 密钥登录。浏览器不保存密钥，只保存随密钥失效的会话。",
    "This key is unknown, revoked or past its end.": "此密钥未知、已吊销或已过期。",
    "Too many attempts. Wait a minute.": "尝试次数过多，请稍等一分钟。",
    "Sign in with {provider}": "使用 {provider} 登录", "Person": "人员",
    "You are signed in. Continue.": "您已登录。继续。",
    "Your groups have access to several projects. Choose one.": "您的用户组可以访问多个项目，请选择一个。",
    "API keys are not accepted here. Sign in with your account.": "此处不接受 API 密钥。请使用您的账户登录。",
    "This sign-in was not begun in this browser, or it took longer than ten minutes. Begin again; allow cookies, and "
    "open the console at {host}.":
        "此登录不是在本浏览器中开始的，或耗时超过十分钟。请允许 Cookie，在 {host} 打开控制台并重新开始。",
    "This sign-in was used before. Begin again.": "此登录已被使用过。请重新开始。",
    "The identity provider does not answer as expected. Try again later; the log of this service says why.":
        "身份提供方没有正常响应。请稍后重试；原因见本服务的日志。",
    "The identity provider did not confirm this sign-in. Begin again; the log of this service says why.":
        "身份提供方没有确认此登录。请重新开始；原因见本服务的日志。",
    "{name}: your sign-in names no groups. Ask an administrator of the identity provider to add you to a group with "
    "access to this console, and to list your groups in the claim '{claim}' of the ID token.":
        "{name}：您的登录不含用户组。请身份提供方的管理员把您加入有权访问此控制台的用户组，"
        "并在 ID 令牌的声明“{claim}”中列出您的用户组。",
    "{name}: none of your groups has access to this console. Ask an administrator of this console to give access to "
    "one of them, or to add you to a group that has it. Your groups: {groups}.":
        "{name}：您的用户组都无权访问此控制台。请此控制台的管理员为其中之一授权，"
        "或把您加入有权访问的用户组。您的用户组：{groups}。",
    "{name}: the project that your groups have access to does not exist or is archived: {projects}. Ask an "
    "administrator of this console to create it.":
        "{name}：您的用户组可以访问的项目不存在或已归档：{projects}。请此控制台的管理员创建它。",
    "{name}: the project has as many people as it can have. Ask an administrator of this console to revoke some.":
        "{name}：该项目的人员已达上限。请此控制台的管理员吊销一些人员。",
    "Skip to the content": "跳到内容",
    "Search titles, texts, names, users": "搜索标题、文本、名称、用户",
    "User": "用户", "Name": "名称", "Metadata": "元数据", "key=value": "键=值", "Archived": "已归档",
    "Since": "起始", "Until": "截止", "Order": "排序", "by activity": "按活动时间", "by creation": "按创建时间",
    "any": "全部", "yes": "是", "no": "否", "Filter": "筛选", "Untitled": "无标题", "more": "更多",
    "Nothing is here yet.": "这里还没有内容。", "Nothing was found.": "没有找到。", "running": "进行中",
    "archived": "已归档", "{n} turns": "{n} 轮", "1 turn": "1 轮",
    "In texts": "文本中", "By name": "按名称", "By user": "按用户",
    "Conversation": "对话", "Chain": "链", "Tree": "分支图", "Replay": "回放", "Trail": "审计记录",
    "You": "用户", "Assistant": "助手", "System": "系统", "Tool": "工具",
    "Reasoning": "思考过程", "Tool call": "工具调用", "Tool output": "工具结果", "Sources": "来源", "Image": "图片",
    "An image elsewhere": "外部图片", "Video": "视频", "A video elsewhere": "外部视频", "Audio": "音频",
    "Audio elsewhere": "外部音频", "File": "文件", "A file elsewhere": "外部文件",
    "new": "新建", "chained": "链接", "rebuilt": "重建", "compacted": "压缩", "added": "添加",
    "in_progress": "进行中", "completed": "完成", "incomplete": "未完成", "failed": "失败", "cancelled": "已取消",
    "{n} tokens": "{n} 个 token", "{n} cached": "缓存 {n}", "{n} s": "{n} 秒", "first word after {n} s": "首字 {n} 秒",
    "{n} left out": "省略 {n} 条", "account": "账号", "cost": "费用", "Edit": "编辑", "Answer again": "重新回答",
    "Fork here": "从此分叉", "Cancel": "取消", "Archive": "归档", "Unarchive": "取消归档", "Delete": "删除",
    "Delete this thread and everything in it?": "删除此会话及其全部内容？", "Say something": "说点什么", "Send": "发送",
    "Model": "模型", "Earlier turns": "更早的轮次", "Branch {i} of {n}": "分支 {i} / {n}",
    "the branch before": "上一个分支", "the branch after": "下一个分支", "Calls": "调用",
    "As it stood after this turn": "此轮之后的状态",
    "Shown as it stood after one of its turns.": "显示的是某一轮之后的状态。",
    "To the whole thread": "查看完整会话",
    "The life of each response id": "每个响应 id 的有效期", "Why": "原因", "expires": "过期", "expired": "已过期",
    "live": "有效", "Turn": "轮次", "How": "方式", "When": "时间", "Response id": "响应 id",
    "another model": "换了模型", "another account": "换了账号",
    "the id had expired": "id 已过期", "the turn before had left no id": "上一轮没有留下 id",
    "the provider did not know the id, or the history had changed": "提供方不认识该 id，或历史已更改",
    "its history was compacted": "历史已压缩", "as curl": "curl 命令", "What was sent": "发送的内容",
    "What differs from the call before": "与上一次调用的差异", "Something of it was erased.": "其中部分内容已被清除。",
    "Play": "播放", "Pause": "暂停", "Speed": "速度", "Position": "位置",
    "Action": "操作", "Record": "记录", "Key": "密钥", "Thread": "会话", "Apply": "应用", "Export": "导出",
    "Who read": "谁读过", "Recorded reads": "记录的读取", "of every key": "所有密钥",
    "of the console, admin keys and exports": "控制台、管理密钥和导出",
    "Proof": "证明", "Public key of the trail": "审计公钥", "Verify": "验证",
    "Paste the key that 'everthread audit public-key' shows.": "粘贴 'everthread audit public-key' 显示的公钥。",
    "Witnesses": "见证方", "Witness": "见证方", "Last cosignature": "最近的联署", "Tree size": "树的大小",
    "cosigned": "已联署", "not answered yet": "尚未回应", "unreachable": "无法连接", "unknown_origin": "不认识该日志",
    "untrusted_key": "不信任日志的密钥", "forked": "见过另一份历史", "refused": "拒绝", "bad_answer": "回应无效",
    "bad_leaves": "数据库与检查点不符",
    "By day": "按天", "By model": "按模型", "Turns": "轮次", "Input": "输入", "Output": "输出",
    "Cached": "缓存", "Rebuilt": "重建", "Cost": "费用", "Failed": "失败", "Tokens by day": "每天的 token",
    "Accounts": "账号", "State": "状态", "unknown": "未知", "Projects": "项目",
    "Keys": "密钥", "Scopes": "权限", "Created": "创建", "Used": "使用", "Ends": "到期", "Revoked": "已吊销",
    "Make a key": "新建密钥", "Make": "新建", "Revoke": "吊销", "Rotate": "轮换", "Save": "保存",
    "Retention": "保留期", "Days until contents are purged": "内容清除前的天数", "forever": "永久",
    "Limits": "限制", "Webhooks": "Webhook", "URL": "URL", "Add": "添加",
    "paused": "已暂停", "Copy it now: it is not shown again.": "请立即复制：之后不再显示。",
    "This key has not the scope '{scope}'.": "此密钥没有“{scope}”权限。",
    "Encrypted": "已加密", "Base URL": "Base URL", "Weight": "权重",
    "How long answers took, in the last seven days": "最近七天的回答耗时", "By hour": "按小时", "Hour": "小时",
    "By account": "按账号", "Input of rebuilt": "重建输入", "Cost of rebuilt": "重建费用",
    "Saved by the cache": "缓存节省",
    "Certificate": "删除证明",
    "Errors": "错误", "Purges": "清除任务", "Refused": "被拒绝", "Back": "返回", "none": "无",
    "Requests per minute": "每分钟请求数", "Tokens per minute": "每分钟 token 数", "Turns at once": "同时进行的轮次",
    "Tokens per month": "每月 token 数", "Cost per month": "每月费用", "Most threads": "会话数上限",
    "Bytes stored": "存储字节数", "Bytes of a request": "请求体字节数", "Items of an input": "输入条目数",
}  # fmt: skip


def language_of(accepted: str) -> str:
    """`zh` for who would rather read Chinese, by `Accept-Language`; else `en`."""
    wanted: list[tuple[float, str]] = []
    for each in accepted.split(","):
        tag, _, rest = each.strip().partition(";")
        quality = rest.strip().removeprefix("q=")
        weight = float(quality) if _QUALITY.fullmatch(quality) else 1.0
        wanted.append((-weight, tag.lower()))
    for _, tag in sorted(wanted, key=lambda one: one[0]):
        if tag.startswith(("zh", "en")):
            return tag[:2]
    return "en"


def words(language: str) -> Words:
    """Return a function that translates a sentence and fills in its numbers and names."""

    def say(sentence: str, **filled: object) -> str:
        said = CHINESE.get(sentence, sentence) if language == "zh" else sentence
        return said.format(**filled) if filled else said

    return say
